"""The only place where numbers become probabilities; everything is in nats and computed in float32."""
