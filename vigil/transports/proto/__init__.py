"""Published protocol files and the code that protoc makes of them."""
