"""An image server with OpenAI's interface, for a diffusers pipeline or a ComfyUI workflow."""
