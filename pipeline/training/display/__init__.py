"""What a person sees of a run while it goes on; nothing here changes what is learned."""
