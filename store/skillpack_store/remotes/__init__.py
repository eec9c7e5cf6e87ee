"""Places that libraries are pushed to and pulled from, behind one protocol; one module a kind of place."""
