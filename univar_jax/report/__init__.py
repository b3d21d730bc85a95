"""Pages and pictures: figures in, files as bytes out."""
