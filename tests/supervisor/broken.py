"""An application whose import fails."""

raise RuntimeError("this can't be imported")
