"""Search spaces, one module each: dotted config path -> Tune domain."""
