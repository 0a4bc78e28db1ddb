"""The 58 everyday objects that the embedded model knows: COCO's names, in categories and places that go together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectClass:
    """A kind of object.

    Attributes:
        name: what the questions call it, one or two words.
        category: "animal", "food", "vehicle", "furniture", or "" for none of them.
        places: the kinds of background it is at home in, names of `PLACES`.
        icons: how the icon sets call the drawings of it; a set need not have all of them.
    """

    name: str
    category: str
    places: tuple[str, ...]
    icons: tuple[str, ...]


PLACES = ("park", "farm", "savanna", "beach", "street", "room", "kitchen")
CATEGORIES = ("animal", "food", "vehicle", "furniture")

_TABLE = """
dog            | animal    | farm room park                | dog dog-face guide-dog poodle
cat            | animal    | room park                     | cat cat-face black-cat
bird           | animal    | park farm beach               | bird dove eagle
horse          | animal    | farm                          | horse horse-face
sheep          | animal    | farm                          | ewe ram
cow            | animal    | farm                          | cow cow-face
elephant       | animal    | savanna                       | elephant
bear           | animal    | savanna                       | bear polar-bear
zebra          | animal    | savanna                       | zebra
giraffe        | animal    | savanna                       | giraffe
banana         | food      | kitchen                       | banana
apple          | food      | kitchen                       | red-apple green-apple
sandwich       | food      | kitchen                       | sandwich
orange         | food      | kitchen                       | tangerine
broccoli       | food      | kitchen                       | broccoli
carrot         | food      | kitchen                       | carrot
hot dog        | food      | kitchen                       | hot-dog
pizza          | food      | kitchen                       | pizza
donut          | food      | kitchen                       | doughnut
cake           | food      | kitchen                       | birthday-cake shortcake
bicycle        | vehicle   | street park                   | bicycle
car            | vehicle   | street                        | automobile oncoming-automobile sport-utility-vehicle
motorcycle     | vehicle   | street                        | motorcycle
airplane       | vehicle   | street beach                  | airplane small-airplane
bus            | vehicle   | street                        | bus oncoming-bus
train          | vehicle   | street                        | train locomotive high-speed-train metro
truck          | vehicle   | street                        | delivery-truck articulated-lorry
boat           | vehicle   | beach                         | sailboat motor-boat speedboat
traffic light  |           | street                        | vertical-traffic-light horizontal-traffic-light
stop sign      |           | street                        | stop-sign
person         |           | street park beach farm room   | person-standing woman-standing man-standing man-walking
backpack       |           | street park                   | backpack
umbrella       |           | street beach                  | umbrella umbrella-with-rain-drops umbrella-on-ground
handbag        |           | street room                   | handbag
tie            |           | room                          | necktie
suitcase       |           | street room                   | luggage
kite           |           | park beach                    | kite
skateboard     |           | park street                   | skateboard
ball           |           | park beach                    | soccer-ball basketball volleyball
bottle         |           | kitchen                       | bottle-with-popping-cork baby-bottle
cup            |           | kitchen room                  | hot-beverage teacup-without-handle cup-with-straw
spoon          |           | kitchen                       | spoon
knife          |           | kitchen                       | kitchen-knife
chair          | furniture | room kitchen                  | chair
couch          | furniture | room                          | couch-and-lamp
bed            | furniture | room                          | bed
toilet         | furniture | room                          | toilet
tv             |           | room                          | television
laptop         |           | room                          | laptop
mouse          |           | room                          | computer-mouse
keyboard       |           | room                          | keyboard
phone          |           | room street                   | mobile-phone
book           |           | room                          | open-book closed-book blue-book green-book orange-book
clock          |           | room kitchen                  | alarm-clock mantelpiece-clock
scissors       |           | room kitchen                  | scissors
teddy bear     |           | room                          | teddy-bear
toothbrush     |           | room                          | toothbrush
plant          |           | room                          | potted-plant
"""


def _read_table() -> dict[str, ObjectClass]:
    classes = {}
    for line in _TABLE.strip().splitlines():
        name, category, places, icons = (cell.strip() for cell in line.split("|"))
        classes[name] = ObjectClass(name, category, tuple(places.split()), tuple(icons.split()))
    return classes


OBJECTS: dict[str, ObjectClass] = _read_table()
NAMES: tuple[str, ...] = tuple(OBJECTS)

# Shown most often, in this order, so that POPE's popular negatives have a meaning; the others follow as in the table.
COMMON = ("person", "car", "dog", "chair", "book", "bird", "cup", "cat", "bottle", "bus", "truck", "boat")


def frequencies() -> dict[str, float]:
    """Give every name its share of the objects shown, a Zipf law with a long flat end; the shares sum to 1."""
    order = [*COMMON, *(name for name in NAMES if name not in COMMON)]
    weights = {name: 1 / (rank + 8) for rank, name in enumerate(order)}
    total = sum(weights.values())
    return {name: weights[name] / total for name in NAMES}


def of_place(place: str) -> tuple[str, ...]:
    """List the names of the objects that are at home in a place."""
    return tuple(name for name in NAMES if place in OBJECTS[name].places)


def with_article(noun: str) -> str:
    """Put "a" or "an" before a noun."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
