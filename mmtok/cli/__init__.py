"""The subcommands of `mmtok`, one module each; the work is in the library."""
