//! Event streams in frameworks whose bodies are streams of bytes. There is nothing here but tests.
