"""The proof that the money holds: whole daemons, a scripted upstream, and a world that breaks. See ../README.md."""
