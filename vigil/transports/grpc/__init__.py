"""gRPC: the Open Inference Protocol and Vigil's own service, on grpc.aio."""
