"""Programs made of the primitives. Nothing below imports them; `hf.tracking`, `hf.rigging` and the like lead here."""
