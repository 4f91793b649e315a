from echo4o.models.bagel.pipeline import Echo4oPipeline as Echo4oPipeline
