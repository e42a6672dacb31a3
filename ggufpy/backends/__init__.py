"""Where plans run: a package a kind of device."""
