"""The HTTP API: FastAPI around an open eventcore, and uvicorn around that."""
