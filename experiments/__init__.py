"""One folder per question: what is compared, on which data, under which budget, and what came out."""
