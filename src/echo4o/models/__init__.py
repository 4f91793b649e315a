"""The models the kit can load: one package per architecture."""
