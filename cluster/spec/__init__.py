"""What is asked: settings, what they leave open, what belongs to a picture's identity."""
