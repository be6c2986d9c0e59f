"""COCO's metrics, and tables for the terminal."""
