"""The parts of the procedural capture: motion, light, hair, mouth, skin, wrinkles, shading and rendering."""
