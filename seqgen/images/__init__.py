"""Images: their data, the VAE and GAN model modules, features and metrics. Text rooms never import this one."""
