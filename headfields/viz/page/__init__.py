"""An avatar of Gaussians as one HTML page, which poses and draws it in a browser without a server."""
