"""Local stand-ins for an image API and the Hub, for tests and rehearsals."""
