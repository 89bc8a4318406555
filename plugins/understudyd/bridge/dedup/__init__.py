"""Messages that the target has are not sent again when the source delivers them again."""
