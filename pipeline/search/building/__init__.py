"""How an index comes to be: chosen by trial, built, tuned, and its recall certified."""
