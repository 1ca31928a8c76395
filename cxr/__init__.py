"""Does the visual evidence behind a chest X-ray classifier change under fine-tuning?"""
