"""Claims about the algorithms, stated in files before the first run, and the code that measures and judges them."""
