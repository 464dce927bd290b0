"""The domain, pure: records that stages hand to each other, and the rules of the racing day."""
