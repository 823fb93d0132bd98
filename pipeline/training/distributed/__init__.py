"""One run by several processes, on one machine or many: who they are, and who starts and watches them."""
