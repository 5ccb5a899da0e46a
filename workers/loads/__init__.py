"""What a target holds loaded, and the swap from one lane to the next."""
