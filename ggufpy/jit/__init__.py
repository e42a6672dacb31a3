"""From a kernel's source to code in memory: `spec` names it, `compile` makes an object, `cache` keeps and loads it."""
