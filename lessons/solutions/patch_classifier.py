import numpy as np


def patch_classifier(image, classify, window, stride):
    """classify(patches (n, C, window, window)) -> (n, K) at every window of the image (C, H, W): (K, rows, columns)."""
    _, height, width = image.shape
    rows, columns = (height - window) // stride + 1, (width - window) // stride + 1
    logits = []
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride, column * stride
            patch = image[:, top : top + window, left : left + window]
            logits.append(classify(patch[None])[0])  # (1, C, window, window) -> (1, K), of which the only row
    return np.array(logits).T.reshape(-1, rows, columns)  # (rows·columns, K) -> (K, rows·columns) -> (K, rows, columns)
