"""The program that measures models: its flags, and what its actions do."""
