"""Who asks about tasks, follows and watches them."""
