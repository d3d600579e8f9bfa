"""Pictures: their data, the VAE and GAN chapters, features and metrics. Text rooms never import this one."""
