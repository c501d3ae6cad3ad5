"""The message broker: names, topology, delays and routing (pure), and its two implementations behind one interface."""
