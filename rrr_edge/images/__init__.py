"""Pictures as arrays, and folders of photos as data sets."""
