"""Complete stories, each in one command."""
