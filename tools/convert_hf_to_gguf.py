"""What llama.cpp's users know, with its flags: `python tools/convert_hf_to_gguf.py DIR --outfile m.gguf`."""

from ggufpy.cli import convert_hf_to_gguf

if __name__ == "__main__":
    convert_hf_to_gguf()
