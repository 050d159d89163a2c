module aliquot.example/tools/figures

go 1.26.0
