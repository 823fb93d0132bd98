"""What is optimised: networks and self-supervised objectives, in torch alone."""
