"""A Horde under fire: many volunteers of all manners, while edges, chat workers and the bus are killed."""
