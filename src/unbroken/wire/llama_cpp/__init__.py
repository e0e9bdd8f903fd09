"""llama.cpp's own words: the ids of the tokens that it says, and its route that goes on from ids."""
