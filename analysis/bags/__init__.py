"""What a detector says inside its bags."""
