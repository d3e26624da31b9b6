"""Pictures from another machine's screen: ``danzar capture`` there, a receiver here."""
