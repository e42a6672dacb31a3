"""`llama_cpp` under another name: what programs import from llama-cpp-python, over `ggufpy.Llama`."""
