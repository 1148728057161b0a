"""Who calls: tokens, JWTs and certificates become principals."""
