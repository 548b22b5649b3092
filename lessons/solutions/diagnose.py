def diagnose():
    """The cause of each of the five sick runs."""
    return {
        "A": "weights not copied",
        "B": "bilinear masks",
        "C": "void as background",
        "D": "learning rate against loss sum",
        "E": "BGR swapped",
    }
