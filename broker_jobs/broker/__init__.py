"""What the broker holds for us: names, topology and delay (pure), and the two exchanges behind one port."""
