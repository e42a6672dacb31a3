"""llama-server's own bodies and answers: those of `/completion`, `/infill`, `/tokenize`, `/embedding`, `/slots`, ...

Fields, bounds and records are those of llama.cpp's tools/server (README.md, server-schema.cpp, server-task.cpp).
"""
