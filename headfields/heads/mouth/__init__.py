"""The mouth of a head mesh: closing its border, or adding an inside with teeth."""
