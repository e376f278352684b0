"""The drawn data set: cartoon creatures, and captions that say what is on the image."""
