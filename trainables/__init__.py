"""How one run trains: one file a method. Needs torch, torchvision and numpy alone."""
