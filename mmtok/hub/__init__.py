"""Every module of this folder is published beside the model classes; nothing else is."""
